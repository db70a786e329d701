from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("crm", "0005_deal_value_index")]

    operations = [
        migrations.AlterField(
            model_name="deal",
            name="contact",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                null=True,
                on_delete=models.deletion.PROTECT,
                related_name="deals",
                to="crm.contact",
            ),
        ),
    ]
